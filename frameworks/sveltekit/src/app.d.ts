import type { Session } from 'keepsake'
import type { Fields } from './sessions.server'

declare global {
  namespace App {
    interface Locals {
      session: Session<Fields>
    }
  }
}
