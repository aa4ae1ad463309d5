// The contract of an adapter as test cases over sockets: data that any test runner can run.

import { connectionCases } from './adapter/connection-cases.ts'
import { crowdCases } from './adapter/crowd-cases.ts'
import { formCases } from './adapter/form-cases.ts'
import { headerCases } from './adapter/header-cases.ts'
import { oddRequestCases } from './adapter/odd-request-cases.ts'
import { refusalCases } from './adapter/refusal-cases.ts'
import { requestCases } from './adapter/request-cases.ts'
import { savingCases } from './adapter/saving-cases.ts'
import type { AdapterCase } from './adapter/stage.ts'

export const adapterCases: readonly AdapterCase[] = [
  ...savingCases,
  ...headerCases,
  ...refusalCases,
  ...formCases,
  ...connectionCases,
  ...crowdCases,
  ...requestCases,
  ...oddRequestCases,
]
