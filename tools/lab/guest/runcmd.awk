# Prints the commands of a cloud-config's runcmd, one a line. Knows strings and flow lists of words.
/^runcmd:/ { found = 1; next }
/^[^ \t-]/ { found = 0 }
found && /^[ \t]*- / {
  sub(/^[ \t]*- +/, ""); sub(/\r$/, "")
  if (/^[[].*[]]$/) {
    # Each word becomes a quoted word of its own.
    gsub(/^[[] *| *[]]$/, ""); gsub(/["']?, *["']?/, "' '"); gsub(/^["']|["']$/, ""); $0 = "'" $0 "'"
  }
  else if (/^".*"$/ || /^'.*'$/) { sub(/^./, ""); sub(/.$/, "") }
  print
}
