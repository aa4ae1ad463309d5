import { setTimeout } from 'node:timers/promises'
import type { PageServerLoad } from './$types'

/** SvelteKit streams the promise after the head of the page. */
export const load: PageServerLoad = ({ locals }) => ({
  late: setTimeout(50).then(() => `late ${locals.session.fields.page}`),
})
