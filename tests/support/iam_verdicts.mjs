// Writes what @cloud-copilot/iam-simulate decides about the cases of iam_requests.py. Run it where that package is:
//
//     npm install @cloud-copilot/iam-simulate
//     python -m tests.support.iam_requests | node iam_verdicts.mjs > iam_verdicts.json
import { readFileSync } from 'node:fs'
import { runSimulation } from '@cloud-copilot/iam-simulate'

const { sha256, cases } = JSON.parse(readFileSync(0, 'utf8'))
const { version } = JSON.parse(readFileSync('node_modules/@cloud-copilot/iam-simulate/package.json', 'utf8'))
const allowed = []
for (const [number, { statements, action, resource, context }] of cases.entries()) {
  const decided = await runSimulation(
    {
      request: {
        principal: 'arn:aws:iam::123456789012:role/role',
        action,
        resource: { resource, accountId: '123456789012' },
        contextVariables: context,
      },
      identityPolicies: [{ name: 'own', policy: { Version: '2012-10-17', Statement: statements } }],
      serviceControlPolicies: [],
      resourceControlPolicies: [],
    },
    {},
  )
  if (decided.resultType === 'error') throw new Error(`case ${number}: ${JSON.stringify(decided.errors)}`)
  const results = decided.results ?? [decided.result]
  const ignored = results.flatMap((each) => each.ignoredContextKeys ?? [])
  if (ignored.length) throw new Error(`case ${number}: ignored ${ignored}`)
  allowed.push(decided.overallResult === 'Allowed' ? 1 : 0)
}
console.log(JSON.stringify({ source: `@cloud-copilot/iam-simulate ${version}`, sha256, allowed: allowed.join('') }))
