#!/usr/bin/env bash
# Starts a Slurm cluster of two nodes on this machine, for tests. Its daemons run until standard input ends, with their files in DIRECTORY.
# It installs nothing.
#
# bash tests/helpers/slurm.sh DIRECTORY
# Prints "ready", or one line with the reason why not and exits with 3. Clients then need SLURM_CONF=DIRECTORY/slurm.conf.
# Partitions: main (the default), and low, whose jobs are preempted by those of main.
set -uo pipefail
directory=$1
cd "$directory" || exit 3
directory=$PWD

refuse() { echo "$*"; exit 3; }

for program in munged slurmctld slurmd sbatch srun scontrol; do
  PATH=$PATH:/usr/sbin command -v "$program" > /dev/null || refuse "no Slurm here: no $program (Debian: apt-get install slurm-wlm munge)"
done
PATH=$PATH:/usr/sbin
export SLURM_CONF=$directory/slurm.conf
user=$(id -un) host=$(hostname -s)
read -r port1 port2 port3 < <(python3 -c '
import socket
held = [socket.socket() for _ in range(3)]
for s in held: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))')

mkdir munge state spool log
head -c 128 /dev/urandom > munge/key && chmod 600 munge/key
# A requeued job may start again after cred_expire seconds. A stopped job has KillWait seconds to save. The other times are long, so that
# a busy machine does not count as a failed node.
# The first node has this machine's name, because the processes of a job find each other by the name of its first node.
cat > slurm.conf << END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port1
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$directory/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool/%n
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd-%n.pid
SlurmctldLogFile=$directory/log/slurmctld
SlurmdLogFile=$directory/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=300
SlurmdTimeout=600
MessageTimeout=60
KillWait=20
MailProg=/bin/true
NodeName=$host NodeAddr=127.0.0.1 Port=$port2 CPUs=2 RealMemory=8000
NodeName=z2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port3 CPUs=2 RealMemory=8000
PartitionName=main Nodes=$host,z2 Default=YES MaxTime=60 PriorityTier=2
PartitionName=low Nodes=$host,z2 MaxTime=60 PriorityTier=1 GraceTime=20
END

daemons=()
stop() {
  squeue -h -o %A 2> /dev/null | sort -u | xargs -r scancel 2> /dev/null
  for _ in $(seq 100); do [ -z "$(squeue -h 2> /dev/null)" ] && break; sleep 0.2; done
  kill "${daemons[@]}" 2> /dev/null
  for _ in $(seq 50); do kill -0 "${daemons[@]}" 2> /dev/null || break; sleep 0.1; done
  kill -9 "${daemons[@]}" 2> /dev/null
}
trap stop EXIT

munged --foreground --force --socket=$directory/munge/socket --key-file=$directory/munge/key --pid-file=$directory/munge/pid \
  --log-file=$directory/log/munged --seed-file=$directory/munge/seed < /dev/null > log/munged.out 2>&1 &
daemons+=($!)
for _ in $(seq 50); do [ -S munge/socket ] && break; sleep 0.1; done
slurmctld -D < /dev/null > /dev/null 2>&1 &
daemons+=($!)
for node in $host z2; do
  mkdir -p spool/$node
  slurmd -D -N $node < /dev/null > /dev/null 2>&1 &
  daemons+=($!)
done
for _ in $(seq 150); do
  [ "$(sinfo -h -p main -t idle -o %D 2> /dev/null)" = 2 ] && break
  sleep 0.2
done
[ "$(sinfo -h -p main -t idle -o %D 2> /dev/null)" = 2 ] || refuse "the daemons of Slurm do not come up: $(tail -qn 1 log/* | tr '\n' ' ')"
echo ready
cat > /dev/null
