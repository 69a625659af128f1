"""Judges what testssl.sh found: nothing above low, but for what any self-signed certificate brings.

Argument: the file that testssl.sh wrote with --jsonfile. Prints what is above low, then one line of totals.
"""

import collections
import json
import sys

# No authority stands for such a certificate, and there is nobody who could take it back.
OF_SELF_SIGNED = {"cert_chain_of_trust", "cert_trust", "cert_revocation", "overall_grade"}
# A check that could not be made is a WARN. This one hangs up after a handshake of TLS 1.3, often before the ticket has
# come; tests/it/tls.rs has what it is about.
OF_ITS_OWN = {"sessionresumption_ticket"}
HARMLESS = {"OK", "INFO", "LOW", "DEBUG"}

with open(sys.argv[1], encoding="utf-8") as file:
    findings = json.load(file)
# At least what it says of each protocol, cipher and weakness; fewer mean that it gave up.
if len(findings) < 50:
    sys.exit(f"testssl.sh only said {len(findings)} things: {findings}")
bad = 0
for it in findings:
    if it["severity"] in HARMLESS:
        continue
    if it["id"].split(" ")[0] in OF_SELF_SIGNED:
        why = "  (as with any self-signed certificate)"
    elif it["severity"] == "WARN" and it["id"] in OF_ITS_OWN:
        why = "  (a race in testssl.sh itself)"
    else:
        why = ""
        bad += 1
    print(f"{it['severity']:<8} {it['id']}: {it['finding']}{why}")
totals = collections.Counter(it["severity"] for it in findings)
print("testssl.sh:", ", ".join(f"{n} {severity}" for severity, n in sorted(totals.items())))
sys.exit(f"{bad} findings above low severity" if bad else 0)
