"""Explanations of failed package installations, each with its remedy."""

from __future__ import annotations

import re


class SetupError(RuntimeError):
    """A failed setup; the message is written for users and has the remedy."""


# The order matters: a full disk also causes the errors after it.
_EXPLANATIONS = (
    (
        r"No space left on device|os error 28|Errno 28|Disk quota exceeded|os error 122",
        "The disk is full: free some space, then run the command again.",
    ),
    (
        r"Hash mismatch|hashes mismatch|DO NOT MATCH THE HASHES|BadZipFile|invalid Zip|"
        r"[Ff]ailed to (extract|unzip|decode)|CRC|checksum|[Cc]orrupt|end of central directory",
        "A download arrived damaged, or is not the file that the lock names: run the command "
        "again; if it happens twice, the package index or a proxy in between alters files.",
    ),
    (
        r"[Cc]ertificate|UnknownIssuer|SSLError|SSL: ",
        "The package index's certificate is not trusted: name your organisation's certificates "
        "with SSL_CERT_FILE, then run the command again.",
    ),
    (
        r"dns error|[Nn]ame resolution|Name or service not known|nodename nor servname|"
        r"[Cc]onnection refused|[Nn]etwork is unreachable|timed out|[Tt]imeout|"
        r"[Ee]rror sending request|[Cc]onnection (reset|closed)|NewConnectionError|"
        r"client error \(Connect\)|[Ff]ailed to fetch|error decoding response body|"
        r"IncompleteBody|Could not connect",
        "The package index does not answer: check the network and, behind a proxy or with an "
        "index of your own, HTTPS_PROXY and PIP_INDEX_URL; then run the command again.",
    ),
    (
        r"Permission denied|os error 13|Errno 13|Read-only file system|os error 30",
        "A file cannot be written: check who owns the project's folder and ~/.cache/uv, then run "
        "the command again.",
    ),
)
_REASON = re.compile(r"^\s*(?:error|ERROR|cause|Caused by)\W*(.+)$", re.MULTILINE)


def explain(output: str) -> str:
    """Return the explanation of a failed installer's output, with the installer's last reason."""
    reasons = _REASON.findall(output) or output.strip().splitlines()[-1:]
    reason = reasons[-1].strip()[:300] if reasons else "it said nothing"
    for pattern, sentence in _EXPLANATIONS:
        if re.search(pattern, output):
            return f"{sentence}\n({reason})"
    return f"The packages could not be installed: {reason}"
