#!/bin/sh
# The first process of a node: node.sh DIRECTORY NUMBER. It has its own processes, mounts, name and network; what a
# machine has of its own on disk is in memory here, and gone with it.
set -e
directory=$1
number=$2
mount --make-rprivate /
for place in /etc/corosync /var/lib/corosync /var/lib/pacemaker /var/log /dev/shm /run; do
    mount -t tmpfs tmpfs "$place"
done
mkdir -p /run/lock /run/crm /run/resource-agents /var/log/corosync /var/log/pacemaker
mkdir -p /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/blackbox /var/lib/pacemaker/cores
cp "$directory/corosync.conf" /etc/corosync/corosync.conf
cp "$directory/cib.xml" /var/lib/pacemaker/cib/cib.xml
chmod 600 /var/lib/pacemaker/cib/cib.xml
chown -R hacluster:haclient /run/crm /var/lib/pacemaker /var/log/pacemaker
hostname "n$number"
export TZ=UTC
corosync -f &
tries=0
until corosync-cfgtool -s > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || exit 1
    sleep 0.1
done
export PCMK_logfile="$directory/pacemaker-$number.log"
pacemakerd -f &
wait
