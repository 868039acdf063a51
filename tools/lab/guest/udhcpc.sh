#!/bin/sh
# Takes a DHCP lease as the card's address.
case $1 in
  bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/${mask:-24} dev $interface
    [ -n "$mtu" ] && ip link set $interface mtu $mtu
    [ -n "$router" ] && ip route add default via ${router%% *} dev $interface
    : > /etc/resolv.conf
    for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
    echo "$ip" > /www/dhcp-lease
    ;;
esac
exit 0
