# cloud-init network-config version 2, block or flow style, to lines "<id> <key> <value>".
# Flow marks become line ends, so structure is read from key names: an unknown key without a
# value opens an interface, a bare value belongs to the last list.
function fact(key, value) { if (id != "" && value != "") { print id, key, value } }
function line(text,   key, value) {
  sub(/^[ \t-]+/, "", text); sub(/[ \t\r]+$/, "", text)
  if (text == "" || text ~ /^#/) return
  if (match(text, /^[A-Za-z][A-Za-z0-9_-]*:/)) {
    key = substr(text, 1, RLENGTH - 1); value = substr(text, RLENGTH + 1); sub(/^[ \t]+/, "", value)
    if (key == "network" || key == "version" || key == "ethernets" || key == "match" || key == "set-name" ||
        key == "nameservers" || key == "search" || key == "routes" || key == "optional") { list = key; return }
    if (key == "to") { list = ""; to = value; return }
    if (key == "scope") { list = ""; if (value == "link") fact("link", to); return }
    if (key == "macaddress") { list = ""; fact("mac", value); return }
    if (key == "gateway4" || key == "gateway6" || key == "via") { list = ""; fact("gateway", value); return }
    if (key == "mtu") { list = ""; fact("mtu", value); return }
    if (key == "dhcp4") { list = ""; if (value == "true") fact("dhcp", "4"); return }
    if (key == "addresses") { list = (list == "nameservers" || list == "search") ? "servers" : key; return }
    if (value == "") { id = key; list = ""; return }
  }
  if (list == "addresses") fact("address", text)
}
{
  gsub(/["']/, ""); gsub(/[][{},]/, "\n")
  count = split($0, parts, "\n")
  for (i = 1; i <= count; i++) line(parts[i])
}
