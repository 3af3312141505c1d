"""How good is a run's best model? `ift evaluate` from a checkout. What it does stands in src/ift/commands/evaluate.py.

python evaluate.py run=RUN eval=responses      answer the whole test split and score it against the references
python evaluate.py --help                      what there is to choose
"""

import sys

from ift.commands.evaluate import command

if __name__ == "__main__":
    sys.exit(command())
