"""``onnxmpq completion``."""

import click
from click.shell_completion import get_completion_class

from onnxmpq.errors import InternalError

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    bash   onnxmpq completion bash > ~/.local/share/bash-completion/completions/onnxmpq
    zsh    onnxmpq completion zsh > ~/.zfunc/_onnxmpq      (a folder of $fpath)
    fish   onnxmpq completion fish > ~/.config/fish/completions/onnxmpq.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise InternalError(f"There is no completion for '{shell}'.")
    click.echo(found(context.find_root().command, {}, "onnxmpq", "_ONNXMPQ_COMPLETE").source())
