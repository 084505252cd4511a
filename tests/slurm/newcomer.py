"""A call of a program that nobody knows yet, over HTTP: `python -m tests.slurm.newcomer CONNECTION_FILE`.

Prints the status, and what an error is called.
"""

import json
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 30.0


def main(path: Path) -> str:
    connection = json.loads(path.read_text(encoding="utf-8"))
    body = {"model": "tiny-llama", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello."}]}
    request = urllib.request.Request(
        f"{connection['base_url']}/chat/completions",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {connection['api_key']}",
            "Content-Type": "application/json",
            "X-Legato-Program-Id": secrets.token_hex(8),
        },
    )
    trusted = ssl.create_default_context(cafile=connection["ca_file"] or None)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS, context=trusted) as response:
            return str(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {json.load(error)['error']['code']}"


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))  # noqa: T201
