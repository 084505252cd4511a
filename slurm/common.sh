# What Legato's batch scripts share. Sourced with LEGATO_SITE set; needs bash 4.4.

set -euo pipefail
# shellcheck source=site.env
source "${LEGATO_SITE:?is not set: submit jobs by \`legato slurm submit\`, whose sbatch has --export=ALL}"
LEGATO_JOB_DIR=${LEGATO_JOB_DIR:-$SHARED_DIR/$CLUSTER_NAME}
export LEGATO_SITE LEGATO_JOB_DIR

# The owner's only: passwords, keys and what programs say lie here.
umask 077
mkdir -p "$LEGATO_JOB_DIR/secrets" "$LEGATO_JOB_DIR/jobs" "$LEGATO_JOB_DIR/followed" "$LEGATO_JOB_DIR/heads"

# A job that follows has the environment of the one before it: what that one set by a site file that said otherwise.
unset LEGATO_CONFIG LEGATO_TLS__{CA,CERT,KEY}_FILE LEGATO_GATEWAY__{CERT,KEY}_FILE LEGATO_{REGISTRY,STATE}__CA_FILE \
  LEGATO_KVPOOL__SSD_DIRECTORY

set +u # modules and a site's own file are seldom written for it, nor for what fails in $(...) to fail
for module in $MODULES; do module load "$module"; done
# shellcheck source=/dev/null
[[ -z $SETUP ]] || source "$SETUP"
set -u
shopt -s inherit_errexit
[[ -z $STORES_BIN || $PATH == "$STORES_BIN":* ]] || PATH=$STORES_BIN:$PATH

# Settings of all services: LEGATO_<SECTION>__<FIELD>, see legato.toml.
[[ -z $SETTINGS ]] || export LEGATO_CONFIG=$SETTINGS
export LEGATO_CLUSTER__NAME=$CLUSTER_NAME LEGATO_CLUSTER__DRAIN_SECONDS=$DRAIN_SECONDS
export LEGATO_GATEWAY__HTTP_PORT=$GATEWAY_HTTP_PORT LEGATO_GATEWAY__PORT=$GATEWAY_PORT
# A call waits for a worker job that waits in the queue.
export LEGATO_SCHEDULER__NO_WORKER_GRACE_SECONDS=${LEGATO_SCHEDULER__NO_WORKER_GRACE_SECONDS:-3600}
export LEGATO_TELEMETRY__METRICS_PORT=$METRICS_PORT
export LEGATO_WORKER__ENGINE=$ENGINE LEGATO_WORKER__MODEL=$MODEL LEGATO_WORKER__MODEL_PATH=$MODEL_PATH
export LEGATO_WORKER__TENSOR_PARALLEL_SIZE=$TENSOR_PARALLEL LEGATO_WORKER__PIPELINE_PARALLEL_SIZE=$PIPELINE_PARALLEL
gpus_of_one=$((TENSOR_PARALLEL * PIPELINE_PARALLEL))
export LEGATO_WORKER__COUNT=$((GPUS_PER_NODE >= gpus_of_one ? GPUS_PER_NODE / gpus_of_one : 1))
export LEGATO_KVPOOL__DRAM_BYTES=$KV_MEMORY_BYTES LEGATO_KVPOOL__SSD_BYTES=$KV_DISK_BYTES
if [[ $TLS == yes ]]; then
  tls=$LEGATO_JOB_DIR/secrets/tls
  export LEGATO_TLS__CA_FILE=$tls/ca.pem LEGATO_TLS__CERT_FILE="$tls/{service}.pem" LEGATO_TLS__KEY_FILE="$tls/{service}.key"
  export LEGATO_GATEWAY__CERT_FILE=$tls/gateway.pem LEGATO_GATEWAY__KEY_FILE=$tls/gateway.key
  export LEGATO_REGISTRY__CA_FILE=$tls/ca.pem LEGATO_STATE__CA_FILE=$tls/ca.pem
fi

# Random keys of this cluster, made by whichever job comes first and kept for those that follow: the salt belongs to the
# KV on disk, and clients keep their API key. With TLS certificates too; the control job makes them anew, as its nodes
# are others each time: make_keys [HOST...].
make_keys() {
  local secrets=$LEGATO_JOB_DIR/secrets name
  (
    flock 9 || echo "$secrets is without locks: start the control job before the workers, the first time" >&2
    for name in api_keys etcd_password redis_password salt; do
      [[ -s $secrets/$name ]] || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$secrets/$name"
    done
    if [[ $TLS == yes && ($# -gt 0 || ! -e $tls/ca.pem) ]]; then
      (cd "$LEGATO_HOME" && in_environment python -m legato certs "$tls" --cluster "$CLUSTER_NAME" --renew \
        --names "$(IFS=,; echo "localhost,127.0.0.1${*:+,$*}")")
    fi
  ) 9>"$secrets/.lock"
}

# Run `python -m services node` on this node: node SERVICES [OPTION...]. It takes this shell's place.
node() {
  local services=$1 name=$SLURMD_NODENAME
  LEGATO_CLUSTER__HOST=$(node_address)
  LEGATO_KVPOOL__NAME=$CLUSTER_NAME-$name
  if [[ $KV_DISK_SHARED == yes ]]; then # the pool belongs to the array's element, whose disk tier is found anywhere
    LEGATO_KVPOOL__NAME=$CLUSTER_NAME-${LEGATO_WORKER__ROLE:-both}-${SLURM_ARRAY_TASK_ID:-$SLURM_PROCID}
  fi
  export LEGATO_CLUSTER__HOST LEGATO_KVPOOL__NAME
  [[ $ENGINE != simulated ]] || export LEGATO_SIMULATED__POOL_ID=$LEGATO_KVPOOL__NAME # so that calls are handed over
  [[ -z $KV_DISK_DIR ]] || export LEGATO_KVPOOL__SSD_DIRECTORY=$KV_DISK_DIR/$LEGATO_KVPOOL__NAME
  cd "$LEGATO_HOME"
  in_environment python -m services node --services "$services" --directory "$LEGATO_JOB_DIR" \
    --name "$name-$SLURM_JOB_ID" --notice-seconds $((NOTICE_SECONDS - MARGIN_SECONDS)) --stop-seconds "$STOP_SECONDS"
}

# What a worker's node of this task runs. Of an engine over several nodes it is one part: the step's tasks, ENGINE_NODES
# at a time, are one engine each. They meet at two ports of the first of them, by the job's number: jobs whose numbers
# are 5000 apart have the same ones, which matters only if their engines begin on one node.
worker_node() {
  if ((ENGINE_NODES == 1)); then node kvpool,worker; fi
  local hosts head=$((SLURM_PROCID / ENGINE_NODES * ENGINE_NODES))
  hosts=($(scontrol show hostnames "$SLURM_STEP_NODELIST"))
  LEGATO_WORKER__HEAD_ADDRESS=$(head_address "${hosts[head]}"):$((20000 + SLURM_JOB_ID % 5000 * 2))
  export LEGATO_WORKER__HEAD_ADDRESS LEGATO_KVPOOL__ENABLED=false
  export LEGATO_WORKER__NUM_NODES=$ENGINE_NODES LEGATO_WORKER__NODE_RANK=$((SLURM_PROCID - head))
  node worker
}

# The address of an engine's first node, as that one itself says it to the others, which wait: head_address NODE.
head_address() {
  local said=$LEGATO_JOB_DIR/heads/$SLURM_JOB_ID.$SLURM_STEP_ID.${SLURM_RESTART_COUNT:-0}-$1 left=300
  if [[ $1 == "$SLURMD_NODENAME" ]]; then
    node_address >"$said.new"
    mv "$said.new" "$said"
  fi
  until [[ -s $said ]]; do
    if ((left-- <= 0)); then
      echo "node $1, the first of this engine, has not said where it is ($said)" >&2
      return 1
    fi
    sleep 1
  done
  cat "$said"
}

# What the control node of this task runs.
control_services() {
  if ((SLURM_PROCID == 0)); then echo etcd,redis,scheduler,workflow,gateway; else echo scheduler,gateway; fi
}

# A command in the virtual environment or in the image.
in_environment() {
  if [[ -z $APPTAINER_IMAGE ]]; then
    PATH=$VENV/bin:$PATH exec "$@"
  fi
  local binds=(--bind "$SHARED_DIR,$LEGATO_HOME,$MODEL_PATH")
  [[ -z $KV_DISK_DIR ]] || binds+=(--bind "$KV_DISK_DIR")
  # shellcheck disable=SC2086 # options are several words
  exec apptainer exec --nv "${binds[@]}" $APPTAINER_OPTIONS "$APPTAINER_IMAGE" "$@"
}

# Where other nodes reach this one.
node_address() {
  if [[ -z $INTERFACE ]]; then
    known_address "$SLURMD_NODENAME"
  else
    ip -o -4 addr show dev "$INTERFACE" | awk '{ sub("/.*", "", $4); print $4 }' | reachable "INTERFACE=$INTERFACE"
  fi
}

# The address by which Slurm knows a node. One that finds itself at 127.*, as Debian's do, is at the first address of
# its own that is not.
known_address() {
  local known
  known=$(scontrol show node "$1" | grep -o 'NodeAddr=[^ ]*')
  {
    getent ahostsv4 "${known#NodeAddr=}" | awk '{ print $1 }' || true
    [[ $1 != "$SLURMD_NODENAME" ]] || hostname -I | tr ' ' '\n'
  } | reachable "node $1 ($known)"
}

# The first of the IPv4 addresses on standard input that other nodes can reach: reachable WHOSE.
reachable() {
  awk '/^[0-9.]+$/ && !/^127\./ && !found { found = 1; print } END { exit !found }' && return
  echo "no address that other nodes can reach: $1; name the network's interface in INTERFACE of the site file" >&2
  return 1
}

# Names and addresses of the control nodes, for their certificates.
control_hosts() {
  local host
  for host in $(scontrol show hostnames "${SLURM_JOB_NODELIST_HET_GROUP_0:-$SLURM_JOB_NODELIST}"); do
    echo "$host"
    [[ -n $INTERFACE ]] || known_address "$host"
  done
  if [[ -n $INTERFACE ]]; then
    srun --export=ALL --overlap ${SLURM_HET_SIZE:+--het-group=0} bash -c 'source "$LEGATO_HOME/slurm/common.sh"; node_address'
  fi
}

# What Slurm calls this job. An array's last element has the array's own number as its job id, which would mean all of it.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

# Wait for the job's steps, through the signals that come meanwhile: supervise PID... of their srun.
# Steps get Slurm's own SIGTERM (scancel, walltime, preemption) directly; what only this shell gets is passed on.
supervise() {
  steps=("$@")
  trap notice USR1
  trap pass_on_term TERM
  local pid status=0
  for pid in "${steps[@]}"; do
    status=0
    await "$pid" || status=$?
  done
  [[ -z $following ]] || await "$following" || true
  return "$status"
}

# The status of a child, through the signals that come meanwhile.
await() {
  while kill -0 "$1" 2>/dev/null; do wait "$1" || true; done
  wait "$1"
}

# A job that Slurm has queued again, as after a lost node, has the same number, and may run again while this shell ends.
pass_on_term() {
  [[ $(scontrol --oneliner show job "$job") == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]] || return 0
  scancel --signal=TERM "$job" 2>/dev/null || true
}

# SIGUSR1 to this shell: the walltime is near, or `legato slurm` says that this job is to go. Else another job follows.
# The steps hear of it first, and nobody waits for sbatch: where slurmctld is busy it takes minutes, and a SIGTERM must
# be heard meanwhile.
notice() {
  echo "$(date +%T) the end of job $job is near"
  if for_good; then
    kill -USR2 "${steps[0]}" || true # in a heterogeneous job the control nodes': workers stay until programs are done
    return
  fi
  kill -USR1 "${steps[@]}" || true # srun passes it on to its tasks
  if ! kill -0 "$following" 2>/dev/null; then
    follow &
    following=$!
  fi
}
following= # the process that submits the next job

# Whether `legato slurm` says that this job (leaving), or all of the cluster (draining), goes and nothing follows.
for_good() { [[ -e $LEGATO_JOB_DIR/draining || -e $LEGATO_JOB_DIR/leaving/$SLURM_JOB_ID ]]; }

# Submit the job that follows, unless there is one. It waits for this one's end, whatever that is (afterany), and stands
# in the queue meanwhile. Not `scontrol requeue`: that ends this job at once, and sites may forbid it. One follows, also
# if Slurm requeues this job after that: two control jobs at once would write the same files.
follow() {
  local followed=$LEGATO_JOB_DIR/followed/$SLURM_JOB_ID
  [[ ! -e $followed ]] || return 0
  successor && : >"$followed" || echo "no job follows: sbatch failed" >&2
}
