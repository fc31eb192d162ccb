#!/usr/bin/env bash
# Trains a team with EPyMARL's MAPPO. Changes two words in the checkout's SMAClite wrapper.
# Usage: bash docs/third_party/epymarl_mappo.sh CHECKOUT [scenario] [steps], with the environment's python before others on
# the PATH
set -euo pipefail
cd "${1:?the folder of a checkout of EPyMARL is missing}"
sed -i 's/import smaclite /import amal.envs /; s#smaclite/#amal/#' src/envs/smaclite_wrapper.py
python src/main.py --config=mappo --env-config=smaclite with env_args.map_name="${2:-3m}" t_max="${3:-40000}" \
  standardise_rewards=False lr=0.0005 seed=0 use_cuda=False \
  test_nepisode=32 test_interval=5000 log_interval=5000 runner_log_interval=5000 learner_log_interval=5000
