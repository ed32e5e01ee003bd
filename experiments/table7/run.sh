#!/usr/bin/env bash
# Table 7, COVID-19 by several approaches: bash experiments/table7/run.sh [NAME=VALUE ...]
# Without settings: the paper's images from Kaggle and ImageNet weights. Without a network:
#   DATA="phantoms, 572 per class" bash experiments/table7/run.sh data=phantom data.view=null model.weights=random
set -euo pipefail
out=${OUT:-outputs/experiments/table7}
python -m covidnet.train -m 'fold=range(0,10)' experiment=strict hydra.sweep.dir="$out/strict" "$@"
# Trained from scratch, whatever weights the others have.
python -m covidnet.train -m 'fold=range(0,10)' experiment=cnn hydra.sweep.dir="$out/cnn" "$@" model.weights=random
python -m covidnet.train -m 'fold=range(0,10)' experiment=narin hydra.sweep.dir="$out/narin" "$@"
python "$(dirname "$0")/make.py" "$out/strict" "$out/cnn" "$out/narin" --data "${DATA:-Kaggle, prashant268/chest-xray-covid19-pneumonia}" --out "$out/table7.csv"
