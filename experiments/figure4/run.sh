#!/usr/bin/env bash
# Figure 4: bash experiments/figure4/run.sh [NAME=VALUE ...]
# Without settings: the paper's images from Kaggle and ImageNet weights. Without a network:
#   DATA="phantoms, 572 per class" bash experiments/figure4/run.sh data=phantom data.view=null model.weights=random
set -euo pipefail
out=${OUT:-outputs/experiments/figure4}
python -m covidnet.train -m 'fold=range(0,10)' experiment=strict hydra.sweep.dir="$out/strict" "$@"
python "$(dirname "$0")/make.py" "$out/strict" --data "${DATA:-Kaggle, prashant268/chest-xray-covid19-pneumonia}" --out "$out/figure4.csv"
