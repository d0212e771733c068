"""Recipes that are wrong, each in one way, with the sentence that says so.

Shared by the tests of the reader and of the command line. `BAD` is refused when it is read, `RUIN`
only when it is run: what is wrong shows in the specimen.
"""

from __future__ import annotations

import re

HEAD = 'schema = "prctlmm-lab/recipe/1"\n'
ONE = f'{HEAD}[[experiment]]\nid = "x"\n'
VALUE = 'expected a whole number or a formula such as "end_data - 8"'
GRAMMAR = "expected numbers, names, + - * // % << >> & |, brackets, page_up() and page_down()"
STEPS = (
    "one of map, write, read, unmap, protect, brk, limit, become, lose_privilege, user_namespace, "
    "open, memory_file, own_mount, close, release_executable"
)
WORD = "expected 0 to 0xffffffffffffffff"

BAD: dict[str, tuple[str, str]] = {
    # A sentence that begins with "is not TOML" is a pattern: its middle is the TOML reader's own.
    # ---- the file
    "nothing at all": ("", 'schema: is missing; expected "prctlmm-lab/recipe/1"'),
    "no TOML": (
        "title = ",
        r"is not TOML: .*\(at .*\)",
    ),
    "no TOML in line 2": (
        "title = ''\nwhat is this",
        r"is not TOML: .*\(at line 2, column 6\)",
    ),
    "a control character in TOML": (
        'title = "\x1b[31m"',
        r"is not TOML: .*\(at line 1, column 10\)",
    ),
    "another schema": (
        'schema = "prctlmm-lab/recipe/9"',
        "schema: 'prctlmm-lab/recipe/9' is not that of a recipe; expected \"prctlmm-lab/recipe/1\"",
    ),
    "a schema of the wrong type": (
        "schema.a = 1",
        "schema: {'a': 1} is not that of a recipe; expected \"prctlmm-lab/recipe/1\"",
    ),
    "an unknown key of the file": (
        f"{HEAD}tilte = 'a'",
        "'tilte' is not a known key; expected title?",
    ),
    "a title of the wrong type": (
        f"{HEAD}title = 3",
        "title: 0x3 is of the wrong type; expected a string",
    ),
    "a title that is too long": (
        f"{HEAD}title = '{'a' * 2001}'",
        "title: 2001 characters are too many; expected at most 2000",
    ),
    "a zero in the title": (
        f'{HEAD}title = "a\\u0000b"',
        "title: U+0000 is a control character; expected text",
    ),
    "a terminal escape in the title": (
        f'{HEAD}title = "\\u001b]0;x\\u0007"',
        "title: U+001B is a control character; expected text",
    ),
    "a title that runs backwards": (
        f'{HEAD}title = "a\\u202eb"',
        "title: U+202E is a control character; expected text",
    ),
    "no experiment": (
        HEAD,
        "experiment: must be written as [[experiment]] tables; expected 1 to 1000 of them",
    ),
    "one table for the experiments": (
        f"{HEAD}[experiment]\nid = 'x'",
        "experiment: must be written as [[experiment]] tables; expected 1 to 1000 of them",
    ),
    "too many experiments": (
        HEAD + "[[experiment]]\n" * 1001,
        "experiment: must be written as [[experiment]] tables; expected 1 to 1000 of them",
    ),
    "an experiment that is a number": (
        f"{HEAD}experiment = [3]",
        "experiment[0]: 0x3 is not a table; expected key = value",
    ),
    "a number of thousands of digits": (
        f"{ONE}change.brk = {'9' * 5000}",
        "holds a number that is too large; expected at most 64 bits",
    ),
    "brackets nested deeply": (
        f"{ONE}change.brk = {'[' * 5000}",
        "is nested too deeply for a recipe",
    ),
    "tables nested deeply": (
        f"{ONE}change = {'{ a = ' * 5000}",
        "is nested too deeply for a recipe",
    ),
    "a key nested deeply": (
        f"a{'.a' * 20_000} = 1",
        "is nested too deeply for a recipe",
    ),
    "a quoted key nested deeply": (
        f"""x = {{ "a b"{''' . "c d" . 'e' ''' * 100} = 1 }}""",
        "is nested too deeply for a recipe",
    ),
    # ---- ids
    "no id": (f"{HEAD}[[experiment]]\ntitle = 'a'", "experiment[0].id: is missing"),
    "no id in the second": (f"{ONE}[[experiment]]", "experiment[1].id: is missing"),
    "an id that is a number": (
        f"{HEAD}[[experiment]]\nid = 3",
        "experiment[0].id: 0x3 is of the wrong type; expected a string",
    ),
    "an empty id": (
        f"{HEAD}[[experiment]]\nid = ''",
        "experiment[0].id: '' is not an id; expected 1 to 80 characters",
    ),
    "an id that is too long": (
        f"{HEAD}[[experiment]]\nid = '{'a' * 81}'",
        f"experiment[0].id: '{'a' * 76}... is not an id; expected 1 to 80 characters",
    ),
    "a zero in an id": (
        f'{HEAD}[[experiment]]\nid = "a\\u0000"',
        "experiment[0].id: U+0000 is a control character; expected text",
    ),
    "a line break in an id": (
        f'{HEAD}[[experiment]]\nid = "a\\nb"',
        "experiment[0].id: U+000A is a control character; expected text",
    ),
    "an id used twice": (
        f"{ONE}[[experiment]]\nid = 'x'",
        "experiment[1].id: 'x' is used twice",
    ),
    # ---- an experiment
    "an unknown key": (
        f"{ONE}chnage.brk = 1",
        "experiment \"x\": 'chnage' is not a known key; expected change?",
    ),
    "a key with a terminal escape": (
        f'{ONE}"\\u001b[31m" = 1',
        "experiment \"x\": '\\x1b[31m' is not a known key; expected one of id, title, explanation, "
        "specimen, setup, change, call, after, predict, rule, effect, requirement, needs",
    ),
    "a verdict that is none": (
        f"{ONE}predict = 'EINVLA'",
        "experiment \"x\": predict: 'EINVLA' is not a verdict; expected EINVAL?",
    ),
    "a rule that is none": (
        f"{ONE}rule = 'order.cod'",
        "experiment \"x\": rule: 'order.cod' is not a rule; expected order.code?",
    ),
    "an explanation that is a list": (
        f"{ONE}explanation = ['a']",
        "experiment \"x\": explanation: ['a'] is of the wrong type; expected a string",
    ),
    # ---- changes
    "an unknown member": (
        f"{ONE}change.arg_strat = 1",
        "experiment \"x\": change: 'arg_strat' is not a member of struct prctl_mm_map; "
        "expected arg_start?",
    ),
    "a member with a terminal escape": (
        f'{ONE}change."arg_start\\u001b[1m" = []',
        "experiment \"x\": change: 'arg_start\\x1b[1m' is not a member of struct prctl_mm_map; "
        "expected arg_start?",
    ),
    "a change that is no table": (
        f"{ONE}change = 1",
        'experiment "x": change: 0x1 is not a table; expected key = value',
    ),
    "a float": (
        f"{ONE}change.brk = 1.5",
        f'experiment "x": change.brk: 1.5 is of the wrong type; {VALUE}',
    ),
    "a boolean": (
        f"{ONE}change.brk = true",
        f'experiment "x": change.brk: true is of the wrong type; {VALUE}',
    ),
    "a date": (
        f"{ONE}change.brk = 2026-11-23",
        f'experiment "x": change.brk: datetime.date(2026, 11, 23) is of the wrong type; {VALUE}',
    ),
    "a deep table": (
        f"{ONE}change.brk{'.a' * 90} = 1",
        f'experiment "x": change.brk: {("{" + chr(39) + "a" + chr(39) + ": ") * 12}'
        f"{{'a':... is of the wrong type; {VALUE}",
    ),
    "a negative address": (
        f"{ONE}change.brk = -1",
        f'experiment "x": change.brk: -0x1 does not fit; {WORD}',
    ),
    "a number of 65 bits": (
        f"{ONE}change.brk = 0x10000000000000000",
        f'experiment "x": change.brk: 0x10000000000000000 does not fit; {WORD}',
    ),
    "a huge number": (
        f"{ONE}change.brk = 0x1{'0' * 3000}",
        'experiment "x": change.brk: a number of 12001 bits is too large; expected at most 64 bits',
    ),
    "a descriptor of 33 bits": (
        f"{ONE}change.exe_fd = 0x100000000",
        'experiment "x": change.exe_fd: 0x100000000 does not fit; expected 0 to 0xffffffff',
    ),
    "an unknown name": (
        f"{ONE}change.brk = 'end_dtaa + 8'",
        "experiment \"x\": change.brk: 'end_dtaa' is not a known name; expected end_data?",
    ),
    "a name that nothing maps": (
        f"{ONE}change.brk = 'arena.start'",
        "experiment \"x\": change.brk: 'arena.start' is not a known name; expected heap.start?",
    ),
    "the name of a region alone": (
        f"{ONE}setup = [{{ map = 'arena' }}]\nchange.brk = 'arena'",
        "experiment \"x\": change.brk: 'arena' is not a known name; expected arena.end?",
    ),
    "a name of the auxiliary vector elsewhere": (
        f"{ONE}change.brk = 'AT_PAGESZ'",
        "experiment \"x\": change.brk: 'AT_PAGESZ' is not a known name; expected one of arg_end, "
        "arg_start, auxv, auxv_capacity, auxv_size, brk, end_code, end_data, env_end, env_start, "
        "exe_fd, highest, lowest, map_size, page, start_brk, start_code, start_data, start_stack, "
        "unlimited",
    ),
    "a circle of two": (
        f"{ONE}change.brk = 'start_brk'\nchange.start_brk = 'brk'",
        'experiment "x": change.brk: needs itself: brk -> start_brk -> brk; '
        "expected before.brk for the value before the call",
    ),
    "a circle of three": (
        f"{ONE}change.arg_end = 'brk'\nchange.brk = 'env_end + 1'\nchange.env_end = 'arg_end'",
        'experiment "x": change.arg_end: needs itself: arg_end -> brk -> env_end -> arg_end; '
        "expected before.arg_end for the value before the call",
    ),
    "code in place of a value": (
        f"""{ONE}change.brk = "__import__('os').system('touch marker')\"""",
        "experiment \"x\": change.brk: \"__import__('os').system('touch marker')\" "
        f"is not a formula; {GRAMMAR}",
    ),
    "a value in another language": (
        f"{ONE}change.brk = 'конец'",
        f"experiment \"x\": change.brk: 'конец' is not a formula; {GRAMMAR}",
    ),
    "a formula that is too long": (
        f"{ONE}change.brk = '{'1+' * 100}1'",
        'experiment "x": change.brk: 201 characters are too many for a formula; '
        "expected at most 200",
    ),
    "a shift into the blue": (
        f"{ONE}change.brk = '1 << 64 << 64'",
        f'experiment "x": change.brk: {1 << 128:#x} is too large; expected at most 64 bits',
    ),
    # ---- the call
    "an unknown key of the call": (
        f"{ONE}call.arg6 = 1",
        "experiment \"x\": call: 'arg6' is not a known key; expected arg5?",
    ),
    "a negative size": (
        f"{ONE}call.size = -104",
        f'experiment "x": call.size: -0x68 does not fit; {WORD}',
    ),
    "a pointer and changes": (
        f"{ONE}call.pointer = 0\nchange.brk = 1",
        'experiment "x": change: has no effect when call.pointer says where the struct lies; '
        "expected one of the two",
    ),
    "an operation that is none": (
        f"{ONE}call = {{ operation = 'START_CODES', value = 0 }}",
        "experiment \"x\": call.operation: 'START_CODES' is not an operation of PR_SET_MM; "
        "expected START_CODE?",
    ),
    "an operation by its number": (
        f"{ONE}call = {{ operation = '14', value = 0 }}",
        'experiment "x": call.operation: \'14\' is not how it is written; expected "MAP"',
    ),
    "an operation with a zero in front": (
        f"{ONE}call = {{ operation = '099', value = 0 }}",
        'experiment "x": call.operation: \'099\' is not how it is written; expected "99"',
    ),
    "an operation without its value": (
        f"{ONE}call.operation = 'BRK'",
        'experiment "x": call.value: is missing',
    ),
    "an operation with a change": (
        f"{ONE}call = {{ operation = 'BRK', value = 'brk' }}\nchange.brk = 0",
        'experiment "x": change: is not for BRK; expected call.value',
    ),
    "an operation with a struct": (
        f"{ONE}call = {{ operation = 'BRK', value = 'brk', pointer = 0 }}",
        'experiment "x": call.pointer: is not for BRK; expected call.value',
    ),
    "a value for the struct": (
        f"{ONE}call.value = 0",
        'experiment "x": call.value: 0x0 is not for MAP; expected change, or call.pointer',
    ),
    "a value of an unknown name": (
        f"{ONE}call = {{ operation = 'BRK', value = 'brq' }}",
        "experiment \"x\": call.value: 'brq' is not a known name; expected brk?",
    ),
    # ---- what it is about
    "an effect that is none": (
        f"{ONE}effect = 'cmdlin'",
        "experiment \"x\": effect: 'cmdlin' is not an effect; expected cmdline?",
    ),
    "a place that is none": (
        f"{ONE}requirement = 'uses: heap'",
        "experiment \"x\": requirement: 'uses: heap' is not a place of the commit message; "
        "expected uses: exe?",
    ),
    "a need that is none": (
        f"{ONE}needs = ['not order.cod']",
        "experiment \"x\": needs[0]: 'order.cod' is neither a rule nor a fact; "
        "expected order.code?",
    ),
    "a need that is a number": (
        f"{ONE}needs = [1]",
        'experiment "x": needs[0]: 0x1 is of the wrong type; expected a string',
    ),
    "a number of nine bytes": (
        f"{ONE}after = [{{ read = 'brk', length = 9 }}]",
        'experiment "x": after[0].length: 0x9 bytes are no number; expected 1 to 8',
    ),
    "an expectation of an unknown name": (
        f"{ONE}after = [{{ brk = 0, expect = 'brq' }}]",
        "experiment \"x\": after[0].expect: 'brq' is not a known name; expected brk?",
    ),
    # ---- the specimen
    "a build that does not exist": (
        f"{ONE}specimen.build = 'dynamic'",
        "experiment \"x\": specimen.build: 'dynamic' is not a build; expected static or static-pie",
    ),
    "a heap of negative length": (
        f"{ONE}specimen.heap_pages = -1",
        'experiment "x": specimen.heap_pages: -0x1 pages are no heap; expected 0 to 0x10000',
    ),
    "a huge heap": (
        f"{ONE}specimen.heap_pages = 0x1{'0' * 5000}",
        'experiment "x": specimen.heap_pages: a number of 20001 bits pages are no heap; '
        "expected 0 to 0x10000",
    ),
    "a heap that is true": (
        f"{ONE}specimen.heap_pages = true",
        'experiment "x": specimen.heap_pages: true is of the wrong type; expected a whole number',
    ),
    "no arguments": (
        f"{ONE}specimen.arguments = []",
        'experiment "x": specimen.arguments: is empty; expected the program\'s name at least',
    ),
    "a zero in an argument": (
        f'{ONE}specimen.arguments = ["a", "b\\u0000"]',
        "experiment \"x\": specimen.arguments[1]: 'b\\x00' holds a zero byte; "
        "expected text without one",
    ),
    "an argument that is a number": (
        f"{ONE}specimen.arguments = [3]",
        'experiment "x": specimen.arguments[0]: 0x3 is of the wrong type; expected a string',
    ),
    "an environment without values": (
        f"{ONE}specimen.environment = ['A=1', 'B']",
        "experiment \"x\": specimen.environment[1]: 'B' is not an entry; expected NAME=value",
    ),
    "a specimen that is a number": (
        f"{ONE}specimen = 3",
        'experiment "x": specimen: 0x3 is not a table; expected key = value',
    ),
    # ---- steps
    "steps that are no list": (
        f"{ONE}setup = 3",
        'experiment "x": setup: 0x3 is not a list; expected [ ... ]',
    ),
    "too many steps": (
        f"{ONE}after = [{'{ brk = 1 },' * 1001}]",
        'experiment "x": after: 1001 entries are too many; expected at most 1000',
    ),
    "a step that is a number": (
        f"{ONE}setup = [3]",
        'experiment "x": setup[0]: 0x3 is not a table; expected key = value',
    ),
    "an empty step": (
        f"{ONE}setup = [{{}}]",
        f'experiment "x": setup[0]: [] has no key that is a step; expected {STEPS}',
    ),
    "an unknown step": (
        f"{ONE}after = [{{ mpa = 'a' }}]",
        "experiment \"x\": after[0]: ['mpa'] has no key that is a step; expected map?",
    ),
    "an unknown key of a step": (
        f"{ONE}setup = [{{ map = 'a', page = 1 }}]",
        "experiment \"x\": setup[0]: 'page' is not a known key; expected pages?",
    ),
    "two steps in one": (
        f"{ONE}setup = [{{ map = 'a', close = 'b' }}]",
        "experiment \"x\": setup[0]: 'close' is not a known key; "
        "expected one of map, pages, at, permissions, shared, grows_down",
    ),
    "a missing key of a step": (
        f"{ONE}setup = [{{ protect = 'heap.start' }}]",
        'experiment "x": setup[0].permissions: is missing',
    ),
    "a step of the wrong type": (
        f"{ONE}setup = [{{ map = 3 }}]",
        'experiment "x": setup[0].map: 0x3 is of the wrong type; expected a string',
    ),
    "a name that is none": (
        f"{ONE}setup = [{{ map = 'A b' }}]",
        "experiment \"x\": setup[0].map: 'A b' is not a name; "
        "expected a small letter, then small letters, digits and _",
    ),
    "the name of a member": (
        f"{ONE}setup = [{{ memory_file = 'brk' }}]",
        "experiment \"x\": setup[0].memory_file: 'brk' is taken already; expected another name",
    ),
    "the name of a constant": (
        f"{ONE}setup = [{{ map = 'page' }}]",
        "experiment \"x\": setup[0].map: 'page' is taken already; expected another name",
    ),
    "two regions of one name": (
        f"{ONE}setup = [{{ map = 'a' }}, {{ map = 'a' }}]",
        "experiment \"x\": setup[1].map: 'a' is taken already; expected another name",
    ),
    "the name of a label": (
        f"{ONE}setup = [{{ memory_file = 'heap' }}]",
        "experiment \"x\": setup[0].memory_file: 'heap' is taken already; expected another name",
    ),
    "a name used twice": (
        f"{ONE}setup = [{{ map = 'a' }}]\nafter = [{{ open = 'a', path = '/' }}]",
        "experiment \"x\": after[0].open: 'a' is taken already; expected another name",
    ),
    "a negative number of pages": (
        f"{ONE}setup = [{{ map = 'a', pages = -1 }}]",
        f'experiment "x": setup[0].pages: -0x1 does not fit; {WORD}',
    ),
    "a negative length": (
        f"{ONE}setup = [{{ unmap = 'heap.start', length = -4096 }}]",
        f'experiment "x": setup[0].length: -0x1000 does not fit; {WORD}',
    ),
    "permissions that are none": (
        f"{ONE}setup = [{{ map = 'a', permissions = 'rwz' }}]",
        "experiment \"x\": setup[0].permissions: 'rwz' is not of the form rwx; "
        'expected three letters such as "rw-"',
    ),
    "two contents": (
        f"{ONE}setup = [{{ write = 'heap.start', text = 'a', hex = '00' }}]",
        'experiment "x": setup[0]: must have exactly one of text, hex, auxv and identity_map',
    ),
    "no contents": (
        f"{ONE}setup = [{{ write = 'heap.start', identity_map = false }}]",
        'experiment "x": setup[0]: must have exactly one of text, hex, auxv and identity_map',
    ),
    "contents that are too long": (
        f"{ONE}setup = [{{ write = 'heap.start', text = '{'é' * 0x7FFFF + 'abc'}' }}]",
        "is too large for a recipe; expected at most 0x100000 bytes",
    ),
    "hex that is none": (
        f"{ONE}setup = [{{ write = 'heap.start', hex = '0g' }}]",
        "experiment \"x\": setup[0].hex: '0g' is not hex; expected pairs of hex digits",
    ),
    "an unknown auxiliary type": (
        f"{ONE}setup = [{{ write = 'heap.start', auxv = [['AT_NULL', 0], ['AT_PAGSZ', 1]] }}]",
        "experiment \"x\": setup[0].auxv[1][0]: 'AT_PAGSZ' is not a known name; "
        "expected AT_PAGESZ?",
    ),
    "an auxiliary value that is negative": (
        f"{ONE}setup = [{{ write = 'heap.start', auxv = [[1, -1]] }}]",
        f'experiment "x": setup[0].auxv[0][1]: -0x1 does not fit; {WORD}',
    ),
    "an auxiliary entry that is no pair": (
        f"{ONE}setup = [{{ write = 'heap.start', auxv = [[1]] }}]",
        'experiment "x": setup[0].auxv[0]: [1] is not a pair; expected ["AT_PAGESZ", 4096]',
    ),
    "an unknown resource": (
        f"{ONE}setup = [{{ limit = 'DAT', soft = 1 }}]",
        "experiment \"x\": setup[0].limit: 'DAT' is not a resource; expected DATA?",
    ),
    "a negative limit": (
        f"{ONE}setup = [{{ limit = 'DATA', soft = -1 }}]",
        f'experiment "x": setup[0].soft: -0x1 does not fit; {WORD}',
    ),
    "a step that says no": (
        f"{ONE}setup = [{{ release_executable = false }}]",
        'experiment "x": setup[0].release_executable: false says nothing; '
        "expected true, or no such step",
    ),
    "a zero in a path": (
        f'{ONE}setup = [{{ open = "f", path = "/\\u0000" }}]',
        "experiment \"x\": setup[0].path: '/\\x00' is not a path; "
        "expected 1 to 4095 bytes, none of them zero",
    ),
    "an empty path": (
        f"{ONE}setup = [{{ open = 'f', path = '' }}]",
        "experiment \"x\": setup[0].path: '' is not a path; "
        "expected 1 to 4095 bytes, none of them zero",
    ),
    "a way to open that is none": (
        f"{ONE}setup = [{{ open = 'f', path = '/', access = 'wrte' }}]",
        "experiment \"x\": setup[0].access: 'wrte' is not a way to open; expected write?",
    ),
    "a huge file mode": (
        f"{ONE}setup = [{{ memory_file = 'f', mode = 0x1{'0' * 5000} }}]",
        'experiment "x": setup[0].mode: a number of 20001 bits is not a file mode; '
        "expected 0 to 0o7777",
    ),
    "the name of another descriptor": (
        f"{ONE}setup = [{{ memory_file = 'f' }}, {{ own_mount = 'f' }}]",
        "experiment \"x\": setup[1].own_mount: 'f' is taken already; expected another name",
    ),
    "noexec that is a number": (
        f"{ONE}setup = [{{ own_mount = 'f', noexec = 1 }}]",
        'experiment "x": setup[0].noexec: 0x1 is of the wrong type; expected true or false',
    ),
    "a descriptor that nothing opened": (
        f"{ONE}setup = [{{ map = 'a' }}, {{ close = 'a' }}]",
        "experiment \"x\": setup[1].close: 'a' is not a descriptor; "
        "expected a name that a step before gave to one",
    ),
    "another descriptor": (
        f"{ONE}setup = [{{ memory_file = 'ghost' }}, {{ close = 'gost' }}]",
        "experiment \"x\": setup[1].close: 'gost' is not a descriptor; expected ghost?",
    ),
}
"""Name -> the text of a recipe, and the sentence after the file's name."""

RUIN: dict[str, tuple[str, str]] = {
    "no pages": (
        f"{ONE}setup = [{{ map = 'a', pages = 0 }}]",
        'experiment "x": setup[0].pages: 0x0 pages cannot be mapped; '
        "expected 1 or more, inside user space",
    ),
    "more pages than there are": (
        f"{ONE}setup = [{{ map = 'a', pages = 'unlimited' }}]",
        'experiment "x": setup[0].pages: 0xffffffffffffffff pages cannot be mapped; '
        "expected 1 or more, inside user space",
    ),
    "an address below zero": (
        f"{ONE}change.brk = 'brk - (1 << 63)'",
        r'experiment "x": change\.brk: -0x[0-9a-f]{16} does not fit; expected 0 to 0xf{16}',
    ),
    "a division by what is zero here": (
        f"{ONE}change.brk = 'page // (page - page)'",
        "experiment \"x\": change.brk: 'page // (page - page)' divides by zero",
    ),
    "a shift by too much here": (
        f"{ONE}change.brk = '1 << page'",
        'experiment "x": change.brk: 0x1000 is not a shift; expected 0 to 64 bits',
    ),
    "a heap that is not there": (
        f"{ONE}specimen.heap_pages = 0\nchange.brk = 'heap.end'",
        "experiment \"x\": change.brk: 'heap.end' is not there: no memory is labelled [heap] now",
    ),
    "no identity": (
        f"{ONE}setup = [{{ become = 0xffffffff }}]",
        'experiment "x": setup[0].become: 0xffffffff does not fit; expected 0 to 0xfffffffe',
    ),
}
"""As `BAD`, for what is seen only when it runs; the sentence stands alone."""


def matches(said: str, expected: str) -> bool:
    """Tell whether what was said is the sentence that was expected."""
    if expected.startswith("is not TOML") or "[0-9a-f]" in expected:
        return re.fullmatch(expected, said) is not None
    return said == expected
