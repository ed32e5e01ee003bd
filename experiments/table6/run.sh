#!/usr/bin/env bash
# Table 6, with and without augmentation: bash experiments/table6/run.sh [NAME=VALUE ...]
# Without settings: the paper's images from Kaggle and ImageNet weights. Without a network:
#   DATA="phantoms, 572 per class" bash experiments/table6/run.sh data=phantom data.view=null model.weights=random
set -euo pipefail
out=${OUT:-outputs/experiments/table6}
python -m covidnet.train -m 'fold=range(0,10)' experiment=strict hydra.sweep.dir="$out/strict" "$@"
python -m covidnet.train -m 'fold=range(0,10)' experiment=no_augmentation hydra.sweep.dir="$out/no_augmentation" "$@"
python "$(dirname "$0")/make.py" "$out/strict" "$out/no_augmentation" --data "${DATA:-Kaggle, prashant268/chest-xray-covid19-pneumonia}" --out "$out/table6.csv"
