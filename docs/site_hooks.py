"""What mkdocs adds to the Markdown of this folder.

- `index.md` is the README, so that the front page is written once.
- `notebooks.md` holds the notebooks of `notebooks/`, which are kept as text.
- `reference/api.md` lists what the package exports, from `vlm_mu_jax._EXPORTS` and the docstrings.
- `reference/commands.md` holds what each command says to --help.
- Links to files outside this folder lose their target: the site has no page for them.
"""

import re
import subprocess
import sys
from pathlib import Path

NOTEBOOKS = ("audit_and_attack", "unlearn", "guard", "your_own_model")  # in the order of the page
ROOT = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown: str, page, **_) -> str:
    """Called by mkdocs for every page, before it is rendered."""
    pages = {
        "index.md": _readme,
        "notebooks.md": _notebooks,
        "reference/api.md": _api,
        "reference/commands.md": _commands,
    }
    made = pages.get(page.file.src_path)
    text = markdown if made is None else made(markdown)
    return re.sub(r"\[([^\]]+)\]\(\.\./(?!\w+\.md)[^)]*\)", r"`\1`", text)


def on_page_content(html: str, **_) -> str:
    """Called by mkdocs for every page, after it is rendered: the examples of docstrings are code."""
    return re.sub(
        r'(<details class="example"[^>]*>\s*<summary>Example</summary>\s*)<p>(.*?)</p>',
        r"\1<pre><code>\2</code></pre>",
        html,
        flags=re.DOTALL,
    )


def _readme(_: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?://)(?![\w./]+\.(?:md|png|svg)\b)[^)]*\)", r"\1", text)


def _notebooks(markdown: str) -> str:
    import jupytext

    files = [ROOT / "docs" / "notebooks" / f"{name}.py" for name in NOTEBOOKS]
    texts = [jupytext.writes(jupytext.read(file), "md") for file in files]
    bodies = [re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip() for text in texts]
    return markdown + "\n\n" + "\n\n".join(re.sub(r"^# ", "## ", body, flags=re.MULTILINE) for body in bodies) + "\n"


def _api(markdown: str) -> str:
    sys.path.insert(0, str(ROOT))
    import vlm_mu_jax

    return markdown + "\n".join(f"\n::: {module}.{name}\n" for name, module in vlm_mu_jax._EXPORTS.items())


def _commands(markdown: str) -> str:
    sys.path.insert(0, str(ROOT))
    from vlm_mu_jax.cli.main import COMMANDS

    return markdown + "".join(f"\n## {name}\n\n```text\n{_help(name)}\n```\n" for name in COMMANDS)


def _help(name: str) -> str:
    command = [sys.executable, "-m", f"vlm_mu_jax.cli.{name}", "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
