# A sweep that Python builds, submits, runs with two cpus and reads. No spec; see docs/python.md.
#
#   python3 sweep.py
#
from torc_spool import Resources, Spool, Workflow

small = Resources(num_cpus=1, memory="64m", runtime="PT5M")

sweep = Workflow("sweep")
files = [sweep.job(f"process_{n}", f"./process.sh file{n}.txt", resources=small) for n in (1, 2, 3)]
sweep.job("analyze", "./analyze.sh", depends_on=files, resources=small)

submitted = Spool().submit(sweep)
result = submitted.run(num_cpus=2)
for row in submitted.results():
    print(row["name"], row["outcome"])
raise SystemExit(result.exit_code)
