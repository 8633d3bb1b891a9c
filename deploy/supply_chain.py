"""The locked dependencies → known vulnerabilities (pip-audit), or a CycloneDX bill of materials of the environment.

    python deploy/supply_chain.py audit          0: none known; 1: some are, or not all packages could be looked up
    python deploy/supply_chain.py sbom FILE      of what is installed beside this interpreter

The tools have an environment of their own, made on the first use.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.environments import environment

TOOLS = Path(__file__).with_suffix(".txt")


def audit() -> int:
    command = [str(environment(TOOLS)), "-m", "pip_audit", "--requirement", str(ROOT / "constraints.txt")]
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    if not done.stdout:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        print(f"NOT AUDITED: pip-audit could not reach its advisories; it said: {said}", file=sys.stderr)
        return 1
    packages = json.loads(done.stdout)["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    known = [(package, flaw) for package in packages for flaw in package.get("vulns", [])]
    for package, flaw in known:
        mended = ", ".join(flaw["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {flaw['id']}, mended in {mended}")
    if skipped:
        few = ", ".join(skipped[:3])
        print(f"NOT AUDITED: of {len(skipped)} packages no advisories could be had ({few} …)", file=sys.stderr)
    print(f"{len(packages) - len(skipped)} of {len(packages)} packages audited, {len(known)} vulnerabilities known")
    return 1 if skipped or known else 0


def sbom(file: str) -> int:
    command = [str(environment(TOOLS)), "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    options = ["--short-PURLs", "--pyproject", str(ROOT / "pyproject.toml"), "--of", "JSON", "-o", file]
    code = subprocess.run([*command, *options, sys.prefix]).returncode
    if code == 0:
        _without_places(Path(file))
    return code


def _without_places(file: Path) -> None:
    """Leaves out where packages were fetched from and where this machine keeps them: that is nobody's business."""
    found = json.loads(file.read_text(encoding="utf-8"))
    for component in (found["metadata"]["component"], *found["components"]):
        component["externalReferences"] = [
            reference
            for reference in component.get("externalReferences", [])
            if reference["type"] != "distribution" and reference["url"].startswith("https://")
        ]
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{file}: {len(found['components'])} components")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["audit"]:
            sys.exit(audit())
        case ["sbom", file]:
            sys.exit(sbom(file))
        case _:
            sys.exit("usage: supply_chain.py audit | sbom FILE")
