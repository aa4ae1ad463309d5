// Tools for tests: the contracts of backends and adapters as cases for any test runner, and a browser.

export type {
  Answer,
  Application,
  ArrivingRequest,
  ServeApplication,
  ServedApplication,
} from './testing/adapter/application.ts'
export type { AdapterCase, RunOptions } from './testing/adapter/stage.ts'
export { adapterCases } from './testing/adapter-cases.ts'
export { type BackendCase, backendCases } from './testing/backend-cases.ts'
export { type Browser, type BrowserOptions, browser } from './testing/browser.ts'
