import type { ReactRouterMiddleware } from 'keepsake/react-router'
import type { Application } from 'keepsake/testing'

declare global {
  var application: { readonly middleware: ReactRouterMiddleware; readonly answer: Application['handle'] }
}
