declare namespace App {
  interface Locals {
    session: import('keepsake').Session<import('./sessions.ts').Fields>
  }
}
