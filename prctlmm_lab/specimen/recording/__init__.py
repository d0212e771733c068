"""Recorded mode: what a real kernel answered, for systems on which the call cannot be made.

`mode` decides when a recording stands in for the kernel, `store` reads and writes the file,
`state` is a specimen at one moment, `recorded` the specimen that walks through a recording,
`recorder` the one that makes it, and `marks` says where an answer comes from.
"""
