"`python -m mow_nb` is `mow`; started by torchrun, it is one rank of a training."

import os
import sys

if __name__ == '__main__':
    # the second loads PyTorch before it knows what is wanted
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        from mow_nb.tools.rank_run import main
    else:
        from mow_nb.tools.cli import main
    sys.exit(main())
