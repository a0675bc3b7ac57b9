"""Train one recipe: the file that accelerate launches. `fastgen.training.loop` holds the loop.

accelerate launch fastgen/train.py recipe=NAME [key=value ...]        (in a checkout)
accelerate launch -m fastgen.train recipe=NAME [key=value ...]        (anywhere, once fastgen is installed)
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the packages lie in the folder above, and this one must not be searched
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from fastgen import cli

    sys.exit(cli.main(["train", *sys.argv[1:]]))
