#!/bin/sh
# Who answers: enough for a test to tell one guest, one boot and one disk from another.
printf 'Content-type: text/plain\r\n\r\n'
echo "host=$(hostname) iid=$(cat /run/seed/instance-id) up=$(cut -d' ' -f1 /proc/uptime)" \
  "boot=$(cat /proc/sys/kernel/random/boot_id) boots=$(cat /data/boots 2> /dev/null || echo 0)" \
  "mac=$(cat /sys/class/net/eth0/address)"
