#!/bin/sh
# service.sh NAME PROGRAM [ARGS]: runs a program that is no service yet, now and after each boot; without systemd, now. It is
# replaced when it runs already, and only itself: what it started, such as tunnels, goes on.
set -eu
name=$1
shift
if [ -d /run/systemd/system ]; then
	cat >"/etc/systemd/system/$name.service" <<END
[Unit]
Description=$name
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=$*
Restart=always
RestartSec=1
KillMode=process
Delegate=yes

[Install]
WantedBy=multi-user.target
END
	systemctl daemon-reload
	systemctl enable "$name"
	systemctl restart "$name"
	exit 0
fi
if [ -e "/run/$name.pid" ]; then
	old=$(cat "/run/$name.pid")
	kill "$old" 2>/dev/null || true
	while kill -0 "$old" 2>/dev/null; do
		sleep 0.1
	done
fi
setsid "$@" >>"/run/$name.log" 2>&1 </dev/null &
echo $! >"/run/$name.pid"
