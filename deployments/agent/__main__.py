"""`python -m deployments.agent`, which is `./run agent`.

Apart from the commands, because each process of a flow run would else run this
program's module again before its own work: multiprocessing leaves out only a main
module of this name.
"""

import sys

from deployments.agent import main

sys.exit(main(sys.argv[1:]))
