"""`python -m losslab` is `losslab`."""

import sys

from losslab.cli import main

sys.exit(main())
