"""A requirements file → an environment of its own for a tool that we are compared with; Maven coordinates → a jar."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.kafka_files import cache_folder

COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


class NotInstalled(Exception):
    """The requirements can't be had here."""


def environment(requirements: Path) -> Path:
    """The interpreter of the environment, which is kept for the next time. What has no wheels the file names."""
    wanted = requirements.read_text()
    folder = cache_folder() / "bench-venvs" / requirements.stem
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        print(f"{requirements.stem}: installing into {folder}", file=sys.stderr)
        install = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
            subprocess.run([*install, "-r", str(requirements)], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise NotInstalled(f"it cannot be installed here: {said[-1]}") from None
        ready.write_text(wanted)
    return python


def jar(group: str, artifact: str, version: str) -> Path:
    """A jar from Maven Central, which is kept for the next time."""
    folder = cache_folder() / "bench-jars"
    kept = folder / f"{artifact}-{version}.jar"
    if not kept.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise NotInstalled("there is no mvn on the PATH to fetch its jar with")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wanted = [f"-Dartifact={group}:{artifact}:{version}", f"-DoutputDirectory={scratch}"]
            command = [maven, "-q", "-B", "--strict-checksums", COPY_GOAL, *wanted]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                said = done.stdout.strip().splitlines() or ["no reason given"]
                raise NotInstalled(f"Maven could not fetch {kept.name}: {said[0]}")
            (Path(scratch) / kept.name).rename(kept)
    return kept
