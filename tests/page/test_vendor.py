"""What the page has from others: the very file that was published, with its licence."""

import re
from hashlib import sha256
from pathlib import Path

VENDOR = Path("page/vendor")


def test_every_file_of_others_is_named_with_its_version_and_checksum() -> None:
    readme = (VENDOR / "README.md").read_text()
    rows = re.findall(r"^\| `(\S+)` .* \| (\d+\.\d+\.\d+) \| .* \| `(\w{64})` \|$", readme, re.M)
    assert {file.name for file in VENDOR.iterdir()} == {
        "README.md",
        "LICENSE",
        *(r[0] for r in rows),
    }
    for name, version, checksum in rows:
        content = (VENDOR / name).read_bytes()
        assert sha256(content).hexdigest() == checksum
        assert f" v{version} ".encode() in content[:200]
