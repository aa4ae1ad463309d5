import type { SvelteKitHandle } from 'keepsake/sveltekit'
import type { Application } from 'keepsake/testing'

declare global {
  var application: { readonly handle: SvelteKitHandle; readonly answer: Application['handle'] }
}
