#!/usr/bin/env bash
# Builds what the oracles need and makes their fixtures anew; `git diff --stat tests/oracles` then shows nothing.
#
#     tests/oracles/build.sh FOLDER [PYTHON]     # FOLDER holds an environment and four checkouts; PYTHON runs keeptune
#
# It needs the network: the package index, and four public repositories at fixed commits.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "$1"
folder=$(cd "$1" && pwd)
python=${2:-.venv/bin/python}

checkout() { # NAME OWNER COMMIT
    if [ ! -d "$folder/$1" ]; then
        git init --quiet "$folder/$1"
        git -C "$folder/$1" fetch --quiet --depth 1 "https://github.com/$2/$1" "$3"
        git -C "$folder/$1" checkout --quiet FETCH_HEAD
    fi
}

checkout AdaLoRA QingruZhang d10f5ebee16c478fa2f41a44a237b38e8c9b0338
checkout P-tuning THUDM f4225d4d8003868b31ed659dfe9732a351ad42d9
checkout P-tuning-v2 THUDM b1520c9aa177ffe539a77b80fd8bca992e76513e
checkout control-tasks john-hewitt be70d7f42324797dcf2bb5360a94d8e64100fea8

# AdapterHub pins another transformers than keeptune.
if [ ! -d "$folder/adapterhub" ]; then
    "$python" -m venv "$folder/adapterhub"
    "$folder/adapterhub/bin/pip" install --quiet --disable-pip-version-check adapters==1.3.0 transformers==4.57.6 torch
fi

"$folder/adapterhub/bin/python" tests/oracles/adapterhub.py
"$python" -m tests.oracles.adalora "$folder/AdaLoRA/loralib"
"$python" -m tests.oracles.prompt_encoders "$folder"
"$python" -m tests.oracles.control_tasks "$folder/control-tasks/control-tasks"
