"""`python -m prctlmm_lab` is `prctlmm-lab`."""

import sys

from prctlmm_lab.cli import main

sys.exit(main())
