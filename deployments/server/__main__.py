"""`python -m deployments.server`, which is `./run server`.

Apart from the commands, because each process of a flow run would else run this
program's module again before its own work: multiprocessing leaves out only a main
module of this name.
"""

import sys

from deployments.server import main

sys.exit(main())
