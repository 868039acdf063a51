# Reads a NoCloud network-config (version 2) and prints, for each card:
#   name mac dhcp4 addresses gateway mtu        ("-" where there is none; addresses joined by commas)
# and "nameserver <address>" lines. Knows block and flow lists; not JSON.
function clean(v) { gsub(/[][{}"' \t\r]/, "", v); return v }
function inside(key,   i) { for (i = 1; i <= depth; i++) if (keys[i] == key) return i; return 0 }
function add(list, v) { return list == "-" ? v : list "," v }
function card(   i) {
  i = inside("ethernets")
  if (!i || i >= depth) return 0
  if (keys[i + 1] != current) { flush(); current = keys[i + 1]; mac = dhcp = addresses = gateway = mtu = "-" }
  return 1
}
function flush() { if (current != "") print current, mac, dhcp, addresses, gateway, mtu }
function take(key, v,   n, i, parts) {
  if (!card()) return
  n = split(clean(v), parts, ",")
  for (i = 1; i <= n; i++) {
    v = parts[i]
    if (key == "addresses" && inside("nameservers")) servers[++count] = v
    else if (key == "addresses") addresses = add(addresses, v)
    else if (key == "macaddress") mac = tolower(v)
    else if (key == "dhcp4") dhcp = (v == "true" || v == "yes") ? "true" : "false"
    else if (key == "gateway4") gateway = v
    else if (key == "mtu") mtu = v
    else if (key == "to") target = v
    else if (key == "via" && (target == "default" || target == "0.0.0.0/0")) gateway = v
    # A flow mapping such as {to: default, via: 10.0.0.1}
    else if (v ~ /^to:/) target = substr(v, 4)
    else if (v ~ /^via:/ && (target == "default" || target == "0.0.0.0/0")) gateway = substr(v, 5)
    else if (v ~ /^macaddress:/) mac = tolower(substr(v, 12))
  }
}
{ sub(/[ \t]+#.*$/, ""); sub(/\r$/, "") }
/^[ \t]*(#.*)?$/ || /^---/ { next }
{
  match($0, /^ */); indent = RLENGTH; line = substr($0, indent + 1)
  item = line ~ /^-([ ]|$)/
  # An item may stand as far left as its list's key: half a step keeps it inside.
  if (item) { sub(/^-[ ]*/, "", line); indent += 0.5 }
  while (depth && indents[depth] >= indent) depth--
  if (item && line !~ /^["']?[a-z0-9_]+["']?:([ ]|$)/) { take(keys[depth], line); next }
  key = line; sub(/:.*$/, "", key); key = clean(key)
  value = line; sub(/^[^:]*:[ ]*/, "", value)
  depth++; keys[depth] = key; indents[depth] = item ? indent + 0.1 : indent
  if (value == "" ) { card(); next }
  depth_was = depth; take(key, value); depth = depth_was
}
END { flush(); for (i = 1; i <= count; i++) print "nameserver", servers[i] }
