#!/usr/bin/env bash
# Table 4, the images of each class and part: bash experiments/table4/run.sh [NAME=VALUE ...]
# Without settings: the paper's images from Kaggle and ImageNet weights. Without a network:
#   DATA="phantoms, 572 per class" bash experiments/table4/run.sh data=phantom data.view=null model.weights=random
set -euo pipefail
out=${OUT:-outputs/experiments/table4}
python -m covidnet.train -m fold=0 experiment=paper trainer.max_epochs=1 hydra.sweep.dir="$out/paper" "$@"
python "$(dirname "$0")/make.py" "$out/paper" --data "${DATA:-Kaggle, prashant268/chest-xray-covid19-pneumonia}" --out "$out/table4.csv"
