"""`python -m trainer` is the command `trainer`: launchers that start modules (torchrun -m) need it."""

from trainer.cli.main import command

if __name__ == "__main__":
    command()
