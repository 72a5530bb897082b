# Runs in the outer machine, which mounted the job at /job: prepares it, then runs pytest or the benchmarks.
set -e
# The store writes locks beside its images.
mkdir /tmp/upper /tmp/work /tmp/home
busybox mount -t overlay -o lowerdir=/job/home,upperdir=/tmp/upper,workdir=/tmp/work home /tmp/home
export HOME=/tmp HYPER_HOME=/tmp/home HYPER_TEST_KERNEL=/job/kernel
export PYTHONPATH=/job/code:/job/packages PYTHONUNBUFFERED=1 COLUMNS=120
for device in /dev/kvm /dev/vhost-vsock; do
  [ -c "$device" ] || { echo "the outer machine has no $device"; exit 90; }
done
# As udev leaves it: machines do not run as root, and get the device by its group.
chgrp 105 /dev/kvm
chmod 660 /dev/kvm
busybox mount -t cgroup2 cgroup /sys/fs/cgroup
cd /job/code
eval "set -- $(cat /job/arguments)"
exec python3 -m "$@"
