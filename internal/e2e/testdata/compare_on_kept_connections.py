"""Run compare.py, which starts a psql for each of its thousand queries, with one
psql for each database.

    compare_on_kept_connections.py compare.py ARGUMENT ...
"""
import importlib.util, subprocess, sys

END = "-- end of the rows --"
sessions = {}


def rows(dsn, sql):
    """What compare.py's own function of that name returns."""
    psql = sessions.get(dsn)
    if psql is None:
        psql = sessions[dsn] = subprocess.Popen(
            ["psql", dsn, "-XAtq", "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    psql.stdin.write(f"{sql};\n\\echo '{END}'\n")
    psql.stdin.flush()
    lines = []
    for line in psql.stdout:
        line = line.removesuffix("\n")
        if line == END:
            return lines
        if line:
            lines.append(line)
    raise SystemExit(f"psql ended with status {psql.wait()} in: {sql[:300]}")


spec = importlib.util.spec_from_file_location("compare", sys.argv[1])
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)
if not callable(getattr(compare, "rows", None)):
    raise SystemExit("compare.py has no function rows")
compare.rows = rows
sys.argv = sys.argv[1:]
status = compare.main()
for psql in sessions.values():
    psql.stdin.close()
    psql.wait()
sys.exit(status)
