"""Fine-tune a GPT on instructions: `ift train` from a checkout. What it does stands in src/ift/commands/train.py.

python train.py                                    the built-in demo, from scratch, two minutes on two cores
python train.py model=gpt2-medium data=alpaca      the real thing
python train.py --help                             what there is to choose
"""

import sys

from ift.commands.train import command

if __name__ == "__main__":
    sys.exit(command())
