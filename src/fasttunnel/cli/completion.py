"""`fasttunnel completion`."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and files in a SHELL.

    \b
    bash, in ~/.bashrc (bash 4.4 or newer):
        eval "$(fasttunnel completion bash)"
    zsh, in ~/.zshrc, after compinit:
        eval "$(fasttunnel completion zsh)"
    fish:
        fasttunnel completion fish > ~/.config/fish/completions/fasttunnel.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    program = context.find_root()
    script = kind(program.command, {}, "fasttunnel", "_FASTTUNNEL_COMPLETE")
    # Not source(): it runs a bash to see whether that is new enough, which says nothing of the one that asks.
    click.echo(script.source_template % script.source_vars())
