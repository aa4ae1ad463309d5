// Mounts the sessions.

import { forNuxt } from 'keepsake/nuxt'
import { manager } from '../utils/sessions'

export default forNuxt(manager, { load: true })
