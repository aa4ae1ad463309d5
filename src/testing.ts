// Tools for tests: the backend contract as cases that any test runner can run, and a browser that keeps cookies.

export { type BackendCase, backendCases } from './testing/backend-cases.ts'
export { type Browser, type BrowserOptions, browser } from './testing/browser.ts'
