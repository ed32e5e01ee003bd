#!/usr/bin/env bash
# Table 5, each class against the other two: bash experiments/table5/run.sh [NAME=VALUE ...]
# Without settings: the paper's images from Kaggle and ImageNet weights. Without a network:
#   DATA="phantoms, 572 per class" bash experiments/table5/run.sh data=phantom data.view=null model.weights=random
set -euo pipefail
out=${OUT:-outputs/experiments/table5}
python -m covidnet.train -m 'fold=range(0,10)' experiment=strict hydra.sweep.dir="$out/strict" "$@"
python -m covidnet.train -m 'fold=range(0,10)' experiment=paper hydra.sweep.dir="$out/paper" "$@"
python "$(dirname "$0")/make.py" "$out/strict" "$out/paper" --data "${DATA:-Kaggle, prashant268/chest-xray-covid19-pneumonia}" --out "$out/table5.csv"
