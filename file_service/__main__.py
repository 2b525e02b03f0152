"""python -m file_service: the same commands."""

import sys

from file_service.cli import main

sys.exit(main())
