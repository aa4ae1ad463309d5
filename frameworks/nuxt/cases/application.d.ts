import type { Application } from 'keepsake/testing'

declare global {
  var application: Application
  var mount: () => void
}
