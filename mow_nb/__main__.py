"`python -m mow_nb` is `mow`."

import sys

from mow_nb.tools.cli import main

if __name__ == '__main__':
    sys.exit(main())
