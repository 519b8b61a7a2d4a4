"""Write what a release is made of as CycloneDX 1.6 JSON: python tools/make_sbom.py --dist DIST --output FILE

The files published with their digests; what they need to run (pyproject.toml) and were compiled with
(tools/requirements/build.txt); the bundled data. The package contains no code of others. Standard library only; the
same files give the same bytes.
"""
import argparse
import hashlib
import json
import re
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements():
    """(name, specifier) of each run-time dependency."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)\]", text, re.M | re.S)[1]
    return [re.match(r"([\w.-]+)(.*)", item).groups() for item in re.findall(r'"(.+?)"', listed)]


def build_requirements():
    """(name, version, digests) of each pinned package that compiled the wheels."""
    text = (ROOT / "tools/requirements/build.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            yield match[1], match[2], re.findall(r"--hash=sha256:(\w+)", line)


def sha256(path):
    return [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]


def make(dist):
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    product = f"pkg:pypi/microgpt-exact@{version}"
    files = [
        {"type": "file", "bom-ref": path.name, "name": path.name, "hashes": sha256(path)}
        for path in sorted(dist.iterdir()) if path.name.endswith((".whl", ".tar.gz"))
    ]  # fmt: skip
    names = ROOT / "microgpt/names.txt"
    data = {
        "type": "data", "bom-ref": "names.txt", "name": "microgpt/names.txt", "hashes": sha256(names),
        "description": "The bundled documents; where they come from and their licence: docs/reference/data.md",
    }  # fmt: skip
    needed = [
        {"type": "library", "bom-ref": f"pkg:pypi/{name}", "name": name, "purl": f"pkg:pypi/{name}", "scope": "required",
         "description": f"needed to run: {name}{specifier}"}
        for name, specifier in requirements()
    ]  # fmt: skip
    tools = [
        {"type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version,
         "purl": f"pkg:pypi/{name}@{version}", "scope": "excluded", "description": "compiled the wheels; not part of them",
         "properties": [{"name": "microgpt:accepted-sha256", "value": digest} for digest in digests]}
        for name, version, digests in build_requirements()
    ]  # fmt: skip
    licence = {"license": {"id": "MIT"}}
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "library", "bom-ref": product, "name": "microgpt-exact", "version": version,
                          "purl": product, "licenses": [licence], "components": [*files, data]},
            "licenses": [licence],
        },
        "components": [*needed, *tools],
        "dependencies": [{"ref": product, "dependsOn": [item["bom-ref"] for item in needed]}]
        + [{"ref": item["bom-ref"], "dependsOn": []} for item in [*needed, *tools]],
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
    bom["serialNumber"] = f"urn:uuid:{uuid.UUID(digest[:32], version=4)}"
    return bom


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", type=Path, required=True, help="the folder of the files that are published")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    bom = make(args.dist)
    if not bom["metadata"]["component"]["components"][:-1]:
        raise SystemExit(f"{args.dist} holds neither wheels nor an sdist")
    args.output.write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")
    print(f"{args.output}: {len(bom['components'])} components")


if __name__ == "__main__":
    main()
