"""`python -m benchmarks.direct_agent SITE`, apart from the rest as `deployments.agent`
has it: each process of a flow run would run this program's module again.
"""

import sys
from pathlib import Path

from benchmarks.direct_agent import main

main(Path(sys.argv[1]))
