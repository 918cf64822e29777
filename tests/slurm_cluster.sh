#!/usr/bin/env bash
# A Slurm cluster of one machine: munged, slurmctld and slurmd on the loopback device of this one, from Debian's packages slurm-wlm and munge.
#
#     sudo tests/slurm_cluster.sh FOLDER PORT PORT     prints "ready" and waits; the end of standard input ends the cluster
#
# With SLURM_CONF=FOLDER/slurm.conf the commands of Slurm talk to it.
set -euo pipefail
folder=$(realpath "$1")
mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
chmod 755 "$folder"

dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
chmod 700 "$folder/munge" && chmod 400 "$folder/munge/key"
socket=$folder/munge/socket
host=$(hostname -s)

cat > "$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$2
SlurmdPort=$3
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A requeued job may start again when the credential of its last start has expired.
AuthInfo=socket=$socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
MinJobAge=60
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$folder/slurm.conf

pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
}
trap stop EXIT

munged --foreground --force --key-file="$folder/munge/key" --socket="$socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" > /dev/null 2>&1 &
pids+=($!)
for _ in $(seq 50); do if [ -S "$socket" ]; then break; fi; sleep 0.1; done
slurmctld -D -c > "$folder/slurmctld.out" 2>&1 &
pids+=($!)
slurmd -D -N "$host" > "$folder/slurmd.out" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    if [ "$(sinfo --noheader --format=%t 2> /dev/null)" = idle ]; then
        echo ready
        cat > /dev/null
        exit 0
    fi
    sleep 0.2
done
echo "not ready: $(tail -n 3 "$folder"/slurmctld.out "$folder"/slurmd.out "$folder"/munge/log 2>&1 | tr '\n' ' ')"
exit 1
